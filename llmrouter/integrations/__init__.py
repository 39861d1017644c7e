"""Our router inside other programs. Each module imports its host, where it needs it at all, when it is used."""
