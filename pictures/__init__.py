"""Pictures as people have them: photographs, drawings and scans in files of many kinds, super-resolved into files.

    from pictures import load
    upscaler = load("x4")
    upscaler.upscale_file("photo.jpg", "large.png")
    large = upscaler.upscale(image)  # uint8 (H, W, 3) -> uint8 (4 H, 4 W, 3)

`upscale.py` does many, and videos: `pictures.video.upscale_video`.
"""

from pictures.upscale import Done, PictureUpscaler, Wanted, upscale_bytes, upscale_file

load = PictureUpscaler.load

__all__ = ["Done", "PictureUpscaler", "Wanted", "load", "upscale_bytes", "upscale_file"]
