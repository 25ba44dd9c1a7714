"""Results of any networks in one table, see __main__.py."""
