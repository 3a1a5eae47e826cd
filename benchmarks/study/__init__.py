"""An architecture study of stage 2 at equal compute: variants trained on the same data, evaluated, and compared."""
