"""Small helpers that belong to no part of the model: files, numbers, text, devices and charts."""
