"""Which thread did what."""

import threading


def watch(monkeypatch, model, method):
    """From now on a list of (thread, arguments) of each call of a method."""
    calls, original = [], getattr(model, method)

    def record(*args):
        calls.append((threading.get_ident(), args))
        return original(*args)

    monkeypatch.setattr(model, method, record)
    return calls
