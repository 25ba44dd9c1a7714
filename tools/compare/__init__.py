"""Pictures of several methods' images beside one another, see __main__.py."""
