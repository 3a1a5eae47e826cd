"""Makes what the models learn from: objects, pictures of objects, and their packaging."""
