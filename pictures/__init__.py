"""Pictures as people have them: photographs, drawings and scans in files of many kinds, super-resolved into files.

`upscale_file(upscaler, path, out)` does one picture; `upscale.py` does many.
"""

from pictures.upscale import Done, Wanted, upscale_bytes, upscale_file

__all__ = ["Done", "Wanted", "upscale_bytes", "upscale_file"]
