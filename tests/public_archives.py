"""Archives of the form in which public data sets are published, of a few images each, and a server that has them."""

import contextlib
import dataclasses
import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from scipy.io import savemat

from cnnray.data.dataset_layouts import CIFAR_CLASSES
from cnnray.data.datasets import DATASETS

FLOWERS = {1: 5, 2: 1, 3: 102, 4: 5, 5: 60, 6: 1}  # class by number of image
PETS = {"trainval": ("Abyssinian_1", "american_bulldog_2", "american_bulldog_10"), "test": ("Abyssinian_3",)}
PEOPLE = {"Ann_Lee": 3, "Bob": 2, "Cy_de_Vos": 1}
SIZE = (96, 64)  # width and height of the photos


def photo(number, form="JPEG"):
    """An image file that packs badly, so that its archive can be cut."""
    pixels = np.random.default_rng(number).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    return image_bytes(Image.fromarray(pixels), form)


def image_bytes(image, form):
    file = io.BytesIO()
    image.save(file, form, quality=95)
    return file.getvalue()


def pack(members, mode="w:gz"):
    """A tar archive of these files; a TarInfo is put in as it is."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = info.size or len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def folder(name):
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info, b""


def flowers():
    labels, sets = io.BytesIO(), io.BytesIO()
    savemat(labels, {"labels": np.array([list(FLOWERS.values())], np.uint8)})
    numbers = {"trnid": [[1, 6]], "valid": [[2]], "tstid": [[3, 4, 5]]}
    savemat(sets, {key: np.array(value, np.uint16) for key, value in numbers.items()})
    photos = [folder("jpg"), *((f"jpg/image_{number:05d}.jpg", photo(number)) for number in FLOWERS)]
    return pack(photos), labels.getvalue(), sets.getvalue()


def pets():
    stems = [stem for part in PETS.values() for stem in part]
    photos = [folder("images"), ("images/Abyssinian_1.mat", b"MATLAB")]
    photos += [(f"images/{stem}.jpg", photo(at)) for at, stem in enumerate([*stems, "Abyssinian_99"])]
    about = [folder("annotations"), ("annotations/README", b"about"), ("annotations/list.txt", b"#Image CLASS-ID\n")]
    for stem in stems:
        trimap = np.random.default_rng(1).integers(1, 4, SIZE[::-1]).astype(np.uint8)
        about.append((f"annotations/trimaps/._{stem}.png", b"Mac OS X"))
        about.append((f"annotations/trimaps/{stem}.png", image_bytes(Image.fromarray(trimap), "PNG")))
    about += [(f"annotations/{k}.txt", "".join(f"{s} 1 1 1\n" for s in part).encode()) for k, part in PETS.items()]
    return pack(photos), pack(about)


def voc(edition, parts):
    """An archive for each part: images by split, of two classes."""
    return tuple(pack(_voc_members(f"VOCdevkit/{edition}", part), "w") for part in parts)


def _voc_members(root, part):
    members = [folder("VOCdevkit"), folder(root)]
    for stem, name in (pair for images in part.values() for pair in images.items()):
        box = "".join(f"<{c}>{v}</{c}>" for c, v in zip(("xmin", "ymin", "xmax", "ymax"), (1, 2, 30, 40), strict=True))
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        entry = f"<object><name>{name}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
        text = f"<annotation><filename>{stem}.jpg</filename>{size}{entry}</annotation>"
        members += [(f"{root}/Annotations/{stem}.xml", text.encode()), (f"{root}/JPEGImages/{stem}.jpg", photo(1))]
    for split, images in part.items():
        members.append((f"{root}/ImageSets/Main/{split}.txt", "".join(f"{stem}\n" for stem in images).encode()))
        lines = "".join(f"{stem} {1 if name == 'dog' else -1:2d}\n" for stem, name in images.items())
        members.append((f"{root}/ImageSets/Main/dog_{split}.txt", lines.encode()))
    return members


def lfw():
    names = [(name, number) for name, count in PEOPLE.items() for number in range(1, count + 1)]
    photos = [(f"lfw/{name}/{name}_{number:04d}.jpg", photo(at)) for at, (name, number) in enumerate(names)]
    pairs = "2\t1\nAnn_Lee\t1\t3\nAnn_Lee\t2\tBob\t1\nBob\t1\t2\nAnn_Lee\t1\tCy_de_Vos\t1\n"
    return pack([folder("lfw"), *photos]), pairs.encode()


def cifar():
    members = [folder("cifar-10-batches-bin"), ("cifar-10-batches-bin/batches.meta.txt", "\n".join(CIFAR_CLASSES))]
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        planes = rng.integers(0, 256, (10, 3, 32, 32), np.uint8)
        planes[:, 0] = 200  # red, to see the order of the planes
        rows = np.concatenate([np.arange(10, dtype=np.uint8)[:, None], planes.reshape(10, -1)], axis=1)
        members.append((f"cifar-10-batches-bin/{name}.bin", rows.tobytes()))
    return (pack([(n, c.encode() if isinstance(c, str) else c) for n, c in members]),)


VOC_2007 = ({"train": {"000005": "dog"}, "val": {"000007": "cat"}}, {"test": {"000001": "dog"}})
VOC_2012 = ({"train": {"2008_000008": "dog"}, "val": {"2008_000015": "cat"}},)
CONTENTS = {
    "flowers102": flowers,
    "oxford_iiit_pet": pets,
    "voc2007": lambda: voc("VOC2007", VOC_2007),
    "voc2012": lambda: voc("VOC2012", VOC_2012),
    "lfw_people": lfw,
    "cifar10": cifar,
}


def tiny(name, contents=None):
    """The data set of the catalogue with small archives in place of its own, and their contents by path of the URL."""
    dataset = DATASETS[name]
    contents = contents or CONTENTS[name]()
    archives = tuple(map(with_content, dataset.archives, contents))
    served = {urlsplit(a.urls[0]).path: content for a, content in zip(archives, contents, strict=True)}
    return dataclasses.replace(dataset, archives=archives, unpacked_bytes=10**6), served


def with_content(archive, content):
    md5, sha256 = hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest()
    return dataclasses.replace(archive, num_bytes=len(content), md5=md5, sha256=sha256)


class Server(ThreadingHTTPServer):
    """A web server on loopback whose faults are what the test asks for.

    Attributes:
        served: contents by path; a text is the URL where it lies now.
        asked: (path, Range header or None) of every request.
        ranges: whether it understands Range.
        cuts: of the next answers, the bytes after which the connection breaks; None does not.
        statuses: of the next answers, in place of 200; with Retry-After: 0.
        begins: of the next answers to a Range, where they begin in place of there.
        lengths: whether it says how long an answer is.
        sent: bytes of every answer that went out, or were tried.
        held: an answer that is cut stays open until this is set, as a line on which nothing comes.
    """

    daemon_threads = True

    def __init__(self, served=(), port=0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.served, self.asked, self.ranges = dict(served), [], True
        self.cuts, self.statuses, self.begins, self.held = [], [], [], threading.Event()
        self.lengths, self.sent = True, []
        self.held.set()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self.held.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        content = self.server.served.get(self.path)
        if content is None or status != 200:
            return self._answer(404 if content is None else status, b"", {"Retry-After": "0"})
        if isinstance(content, str):
            return self._answer(302, b"", {"Location": content})
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        begin = self.server.begins.pop(0) if begin and self.server.begins else begin
        if begin >= len(content):
            return self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        piece = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        self._answer(206 if begin else 200, content[begin:], piece)

    def _answer(self, status, content, headers):
        cut = self.server.cuts.pop(0) if self.server.cuts else None  # before a client can ask for the next one
        self.send_response(status)
        length = {"Content-Length": str(len(content))} if self.server.lengths else {}
        for name, value in (length | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self._send(content[:cut])
        if cut is not None:
            self.server.held.wait(60)

    def _send(self, content):
        self.server.sent.append(0)
        with contextlib.suppress(ConnectionError):  # the other side has had enough
            for at in range(0, len(content), 2**20):
                self.server.sent[-1] = at + 2**20  # before a client that has had enough can close
                self.wfile.write(content[at : at + 2**20])

    def log_message(self, *args):
        pass
