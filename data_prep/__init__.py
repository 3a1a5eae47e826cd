"""Training data: objects, images of objects, captions and curation."""
