"""The commands of the pages in docs/, word for word, in this process."""

from pathlib import Path

from PIL import Image

from tests.commands import commands_in_blocks, run_command

DOCS = Path(__file__).parents[1] / "docs"
ELSEWHERE = ("serve up", "query")  # what needs a service
BRIEFLY = {
    "train stylize": ("--epochs", "1", "--crop", "64", "--width", "8", "--blocks", "1"),
    "train": ("--epochs", "1"),
    "visualize filters": ("--layers", "stem"),
}


def run_page(capsys, name, *starts, instead=()):
    """Run commands of a page in the current folder, which has what they name; those that train have one epoch.

    Args:
        capsys: pytest's.
        name: of the page.
        starts: words that the commands begin with; without them all commands that need no service.
        instead: pairs, of a part of a word and what stands there here.

    Returns:
        the JSON of each command by its words.
    """
    lines = {" ".join(words): words for words in commands(name)}
    for start in starts:
        assert any(line.startswith(start) for line in lines), f"{name} has no command {start}"
    shown = {}
    for line, words in lines.items():
        if line.startswith(starts) if starts else not line.startswith(ELSEWHERE):
            for old, new in instead:
                words = [word.replace(old, new) for word in words]
            shown[line] = run_command(briefly(words), capsys)[0]
    return shown


def commands(name):
    """Words after `cnnray` of each command in the page's blocks."""
    return commands_in_blocks((DOCS / name).read_text())


def service_words(*names, but=()):
    """Options of one service that has all that the pages start services with, but for some."""
    options = {}
    for words in (words[2:] for name in names for words in commands(name) if words[:2] == ["serve", "up"]):
        options |= dict(zip(words[::2], words[1::2], strict=True))
    return [word for pair in options.items() if pair[0] not in but for word in pair]


def briefly(words):
    """The same command with a small piece of work: an epoch of training, a layer's filters."""
    if words[0] == "train" and "--epochs" in words:
        at = words.index("--epochs") + 1
        return [*words[:at], "1", *words[at + 1 :]]
    for start, more in BRIEFLY.items():
        if " ".join(words).startswith(start) and more[0] not in words:
            return [*words, *more]
    return words


def count_pictures(folder, pattern):
    """How many pictures were written there; each can be opened."""
    paths = list(folder.glob(pattern))
    for path in paths:
        with Image.open(path) as picture:
            picture.load()
    return len(paths)
