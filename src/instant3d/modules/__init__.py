"""Network parts, losses, metrics and schedules that several models share."""
