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


class Pages:
    """Runs commands of pages in the current folder, which has what they name; those that train have one epoch.

    Args:
        capsys: pytest's.
    """

    def __init__(self, capsys):
        self._capsys = capsys

    def run(self, name, *starts, but=ELSEWHERE, instead=()):
        """The JSON of each command by its words.

        Args:
            name: of the page.
            starts: words that the commands begin with; all commands without them.
            but: words that other commands begin with.
            instead: pairs, of a part of a word and what stands there here.
        """
        chosen = [words for words in commands(name) if " ".join(words).startswith(starts or "")]
        if not starts:
            chosen = [words for words in chosen if not " ".join(words).startswith(but)]
        for start in starts:
            assert any(" ".join(words).startswith(start) for words in chosen), f"{name} has no command {start}"
        return {" ".join(words): self._run(words, instead) for words in chosen}

    def _run(self, words, instead):
        for old, new in instead:
            words = [word.replace(old, new) for word in words]
        return run_command(briefly(words), self._capsys)[0]


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
    """The same command with a small piece of work: an epoch of training, a layer's filters, a network's speed."""
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
