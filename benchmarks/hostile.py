"""Uploads that nobody sends in good faith, made from a seed: for benchmarks/fuzz_http.py."""

import io
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

from load import HOST
from PIL import Image, features

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", *(("AVIF",) if features.check("avif") else ()))
ENDPOINTS = ("/v1/classify", "/v1/detect", "/v1/faces/detect", "/v1/galleries/people/recognize", "/v1/stylize")
IMAGE_TYPES = ("application/octet-stream", "image/jpeg", "image/png", "IMAGE/X; a=b")
WRONG_TYPES = ("", "text/html", "application/json", "multipart/form-data", "multipart/form-data; boundary=", "a" * 900)
ABSURD = ("-1", "0", "999999999999999999999999", "NaN", "inf", "1e309", "%00", "%ff%fe", "../../etc/passwd", "'\"<", "")
NAMES = ("top_k", "explain", "explain_label", "confidence", "overlap", "suppression", "most", "slice", "smallest_face")
NAMES += ("rotated", "embeddings", "draw", "candidates", "threshold", "style", "strength", "longest_side", "format")
IDS = ("x" * 5000, "a\tb", "\x7f\x80", "{{7*7}}", "${jndi:ldap://x}", "' OR 1=1", "", "..%2f..")
_BOUNDARY = "b0und4ry"


@dataclass(frozen=True)
class Upload:
    """A request's bytes; `whole` where a well-behaved server can answer it (else it may close or wait for the rest)."""

    kind: str
    raw: bytes
    whole: bool = True


# ---- bytes of images -------------------------------------------------------------------------------------------------


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 20, 200))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def splice(data: bytes, rng: random.Random) -> bytes:
    """A piece of it put, once or often, somewhere else."""
    start, at = rng.randrange(len(data)), rng.randrange(len(data))
    return data[:at] + data[start : start + rng.choice((4, 64, 2000))] * rng.choice((1, 2, 50)) + data[at:]


def claim_size(data: bytes, rng: random.Random) -> bytes:
    """Numbers near the beginning, where sizes stand, made huge, zero or negative."""
    changed = bytearray(data)
    number = rng.choice((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
    form = rng.choice((">H", "<H") if number <= 0xFFFF else (">I", "<I"))
    for _ in range(rng.choice((1, 2, 4))):
        at = rng.randrange(2, max(3, min(len(changed) - 4, 200)))
        changed[at : at + struct.calcsize(form)] = struct.pack(form, number)
    return bytes(changed)


def append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.choice((1, 1000, 100_000)))


def noise(data: bytes, rng: random.Random) -> bytes:
    """Its first bytes, then anything."""
    return data[: rng.choice((0, 4, 16, 40))] + rng.randbytes(rng.choice((0, 1, 500, 20_000)))


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip_bits, cut, splice, claim_size, append, noise)


def encoded(content: bytes, side: int = 96) -> dict[str, bytes]:
    """A photo in every format, small, so that ten thousand take minutes."""
    image, made = Image.open(io.BytesIO(content)).convert("RGB").resize((side, side)), {}
    for name in FORMATS:
        buffer = io.BytesIO()
        image.save(buffer, name)
        made[name] = buffer.getvalue()
    return made


# ---- requests --------------------------------------------------------------------------------------------------------


def request(path: str, body: bytes, headers: list[tuple[str, str]], length: object = None) -> bytes:
    """`length` as Content-Length, None the true one, "" none."""
    length = len(body) if length is None else length
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    lines += [f"content-length: {length}"] if length != "" else []
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def form(image: bytes, field: str = "file", count: int = 1) -> bytes:
    part = f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="{field}"; filename="x"\r\n\r\n'.encode()
    return (part + image + b"\r\n") * count + f"--{_BOUNDARY}--\r\n".encode()


def make_upload(images: dict[str, bytes], rng: random.Random) -> Upload:
    """One of every kind, images most often."""
    kinds = (_image, _image, _image, _image, _form, _type, _query, _length, _chunked, _headers)
    path, data = rng.choice(ENDPOINTS), rng.choice(MUTATIONS)(images[rng.choice(FORMATS)], rng)
    path += "?style=stained_glass&longest_side=64" if path == "/v1/stylize" else ""
    return rng.choice(kinds)(path, data, images["JPEG"], rng)


def _image(path: str, data: bytes, good: bytes, rng: random.Random) -> Upload:
    return Upload("image", request(path, data, [("host", HOST), ("content-type", rng.choice(IMAGE_TYPES))]))


def _type(path: str, data: bytes, good: bytes, rng: random.Random) -> Upload:
    return Upload("content type", request(path, data, [("host", HOST), ("content-type", rng.choice(WRONG_TYPES))]))


def _query(path: str, data: bytes, good: bytes, rng: random.Random) -> Upload:
    words = "&".join(f"{rng.choice(NAMES)}={rng.choice(ABSURD)}" for _ in range(rng.choice((1, 3, 30))))
    joined = f"{path}{'&' if '?' in path else '?'}{words}"
    return Upload("query", request(joined, good, [("host", HOST), ("content-type", "image/jpeg")]))


def _form(path: str, data: bytes, good: bytes, rng: random.Random) -> Upload:
    field, count = rng.choice(("file", "file", "", "first", "\0", "x" * 5000)), rng.choice((1, 1, 2, 16, 40))
    body = form(data, field, count)
    if rng.random() < 0.5:
        body = rng.choice((cut, flip_bits, splice))(body, rng)
    kind = f"multipart/form-data; boundary={rng.choice((_BOUNDARY, _BOUNDARY, 'other', 'x' * 300))}"
    return Upload("form", request(path, body, [("host", HOST), ("content-type", kind)]))


def _length(path: str, data: bytes, good: bytes, rng: random.Random) -> Upload:
    true = len(good)
    lengths = (true - 1, true // 2, 0, true + 1, true * 10, 10**15, -5, "abc", f"{true}, {true}", f"{true} ", "+7", "")
    length = rng.choice(lengths)
    headers = [("host", HOST), ("content-type", "image/jpeg")]
    headers += [("content-length", str(rng.choice((0, true, 5))))] if rng.random() < 0.3 else []
    return Upload("length", request(path, good, headers, length), whole=False)


def _chunked(path: str, data: bytes, good: bytes, rng: random.Random) -> Upload:
    chunk = rng.choice((f"{len(good):x}", "ffffffffffffffffff", "-1", "zz", "0", f"{len(good):x};{'e' * 3000}"))
    body = chunk.encode() + b"\r\n" + good + rng.choice((b"\r\n0\r\n\r\n", b"", b"\r\n", b"0\r\n"))
    headers = [("host", HOST), ("content-type", "image/jpeg"), ("transfer-encoding", "chunked")]
    return Upload("chunked", request(path, body, headers, rng.choice(("", "", 5))), whole=False)


def _headers(path: str, data: bytes, good: bytes, rng: random.Random) -> Upload:
    hosts = ([HOST], [], [HOST, "b"], ["x" * 3000], ["127.0.0.1:1", ""], ["evil.example"], ["\xff\xfe"])
    headers = [("host", host) for host in rng.choice(hosts)]
    headers += [("content-type", "image/jpeg"), ("x-request-id", rng.choice(IDS))]
    more = ("cookie", "x-forwarded-for", "origin", "authorization", "idempotency-key", "expect", "content-encoding")
    headers += [(rng.choice(more), rng.choice((*IDS, *ABSURD))) for _ in range(rng.choice((0, 2, 30)))]
    return Upload("headers", request(path, good, headers), whole=False)
