"""Lists of objects and of ids, their licences, authors and failures."""
