"""The one-pass system (arXiv 2311.08403): a prompt to a triplane by one network, taught by a text-to-image model."""
