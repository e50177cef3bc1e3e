"""Where encoded images lie: folders, archives, databases, tables. Each lists its contents once, in a fixed order."""
