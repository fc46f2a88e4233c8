"""Makes the files of this folder (Pillow 11.3, OpenCV 4.8.1, numpy). The tests do not need it.

Pictures are functions of the pixel, restated in tests/pixels.h and tests/test_image.c:
noise(x,y,c) to compare exactly, smooth(x,y,c) for lossy formats.
"""
import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def noise(w, h, c):
    x, y, k = np.meshgrid(np.arange(w), np.arange(h), np.arange(c), indexing="xy")
    return (((x * 73 + y * 151 + k * 59 + x * x * y // 3) ^ (x * y)) & 255).astype(np.uint8)


def smooth(w, h, c):
    x, y, k = np.meshgrid(np.arange(w), np.arange(h), np.arange(c), indexing="xy")
    return ((x * 160 // w + y * 60 // h + k * 15) & 255).astype(np.uint8)


rgb, rgba = noise(7, 5, 3), noise(7, 5, 4)
Image.fromarray(rgb).save("rgb.png")
Image.fromarray(rgba).save("rgba.png")
Image.fromarray(rgb[:, :, 0]).save("grey.png")
Image.fromarray(rgba[:, :, :2].copy(), "LA").save("grey_alpha.png")
Image.fromarray(rgb).save("rgb.bmp")
wide = noise(7, 5, 3).astype(np.uint16)
cv2.imwrite("rgb16.png", ((wide << 8) | (255 - wide))[:, :, ::-1])
pal = Image.fromarray((rgb[:, :, 0] & 15).astype(np.uint8), "P")
pal.putpalette([v for i in range(16) for v in (i * 16, 255 - i, i)] + [0] * 720)
pal.save("palette.png", transparency=bytes([0, 128] + [255] * 14))
Image.fromarray(rgb).save("lossless.webp", lossless=True)
Image.fromarray(rgba).save("alpha.webp", lossless=True, exact=True)
Image.fromarray(smooth(40, 24, 3)).save("lossy.webp", quality=95)
Image.fromarray(smooth(40, 24, 3)).save("baseline.jpg", quality=95)
Image.fromarray(smooth(40, 24, 3)).save("progressive.jpg", quality=95, progressive=True)
Image.fromarray(smooth(40, 24, 3)).convert("CMYK").save("cmyk.jpg", quality=95)
Image.fromarray(smooth(40, 24, 3)[:, :, 0]).save("grey.jpg", quality=95)
for o in range(2, 9):
    exif = Image.Exif()
    exif[0x112] = o
    if o == 6:
        Image.fromarray(smooth(40, 24, 3)).save("turned.jpg", quality=95, exif=exif)
        Image.fromarray(rgb).save("turned.webp", lossless=True, exif=exif)
    Image.fromarray(rgb).save(f"turned{o}.png", exif=exif)
info = PngInfo()
info.add_text("parameters", "caf\u00e9\nSteps: 20, Sampler: Euler a, Seed: 1")
info.add_text("Wide", "\u732b \U0001f431")
info.add_text("Packed", "latin \u00fc " * 20, zip=True)
info.add_itxt("Both", "\u732b " * 50, lang="en", tkey="both", zip=True)
Image.fromarray(rgb).save("text.png", pnginfo=info)
exif = Image.Exif()
exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a \u732b \U0001f431, b".encode("utf-16-be")
Image.fromarray(smooth(40, 24, 3)).save("comment.jpg", quality=95, exif=exif)

# Resized noise, (h,w,c) bytes: METHOD_INxIN_OUTxOUTxC.raw
cases = [("lanczos", 13, 9, 29, 21, 3), ("lanczos", 13, 9, 13, 20, 3), ("lanczos", 31, 9, 12, 9, 3),
         ("lanczos", 40, 37, 11, 50, 3), ("lanczos", 9, 8, 17, 5, 4), ("lanczos", 3, 2, 8, 8, 3),
         ("area", 16, 12, 8, 6, 3), ("area", 27, 18, 9, 6, 3), ("area", 31, 17, 13, 9, 3),
         ("area", 20, 20, 20, 13, 4), ("area", 64, 48, 33, 47, 3), ("area", 50, 20, 7, 3, 3)]
cases += [(m, *size) for m in ("nearest", "bilinear", "bicubic", "box", "area")
          for size in ((23, 17, 10, 8, 3), (13, 9, 29, 21, 4), (20, 14, 10, 7, 3), (15, 21, 20, 9, 3))]
opencv = {"area": cv2.INTER_AREA, "nearest": cv2.INTER_NEAREST_EXACT,
          "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
pillow = {"lanczos": Image.LANCZOS, "box": Image.BOX}
for method, w, h, ow, oh, c in cases:
    a = noise(w, h, c)
    if method in pillow:
        b = np.array(Image.fromarray(a).resize((ow, oh), pillow[method]))
    else:
        # bicubic: OpenCV's own arithmetic, not IPP's, which is off by a level here and there
        cv2.setUseOptimized(method != "bicubic")
        b = cv2.resize(a, (ow, oh), interpolation=opencv[method])
    b.tofile(f"{method}_{w}x{h}_{ow}x{oh}x{c}.raw")

# Another hue, as kohya's color_aug; OpenCV's baseline vectors cut all fractions of such rows off
cv2.setUseOptimized(False)
for by in (5.25, 177.0):
    hsv = cv2.cvtColor(noise(48, 16, 3), cv2.COLOR_BGR2HSV)
    hsv[:, :, 0] = (hsv[:, :, 0] + by) % 180
    cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR).tofile(f"hue_{by:g}.raw")
