"""Tools, one a file: `python -m tools.NAME` in the project's folder, `python DIR/tools/NAME.py` in any other."""
