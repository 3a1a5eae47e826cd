"""An HTML report on a set of scenes."""
