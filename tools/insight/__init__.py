"""What a network looks at and how its picture comes about, see __main__.py."""
