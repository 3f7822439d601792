"""The layering rule: which part of cnnray may import which, and who may import Ray."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASE = {"errors", "config", "files", "ops"}
ALLOWED = {
    "__init__": set(),
    "errors": set(),
    "config": {"errors"},
    "files": {"errors", "config"},
    "ops": {"errors", "config", "files"},
    "nn": BASE,
    "infer": BASE | {"nn"},
    "page": {"errors", "config", "files", "ops"},
    "report": {"page", "errors", "config", "files", "ops"},
    "cluster": {"errors", "config", "files"},
    "data": BASE | {"nn", "infer", "report", "page", "cluster"},
    "train": BASE | {"nn", "data", "report", "page", "cluster"},
    "serve": BASE | {"infer", "client", "cluster"},
    "client": {"errors", "config", "files"},
}
FREE = {"cli", "demo", "__main__"}
RAY_ALLOWED = {"cluster", "data", "train", "serve", "cli", "demo"}
FORBIDDEN = {name: {"ray", "fastapi", "faiss"} for name in ("errors", "config", "files", "ops")}


def modules():
    for path in sorted((ROOT / "cnnray").rglob("*.py")):
        part = path.relative_to(ROOT / "cnnray").parts[0].removesuffix(".py")
        yield path, part


def imported(path):
    """Every imported module name, absolute, with function-level imports and `from cnnray import x` resolved."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "cnnray":
                yield from (f"cnnray.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def violations(files):
    found = []
    for path, part in files:
        for name in imported(path):
            top, _, rest = name.partition(".")
            target = rest.split(".")[0]
            if top == "cnnray" and part not in FREE and target not in ALLOWED[part] | {part, "__version__", ""}:
                found.append(f"{path}: {part} imports {name}")
            if top == "cnnray" and target == "cli" and part not in ("cli", "__main__"):
                found.append(f"{path}: only users import cli")
            if top == "ray" and part not in RAY_ALLOWED:
                found.append(f"{path}: {part} imports ray")
            if top in FORBIDDEN.get(part, ()):
                found.append(f"{path}: {part} imports {name}")
    return found


def test_imports_go_one_way():
    files = list(modules())
    assert len(files) > 5
    assert violations(files) == []


def test_the_rule_sees_violations(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    import ray\n    from cnnray.serve import app\n    from cnnray import cli\n")
    assert len(violations([(bad, "ops")])) == 5


def test_import_cnnray_loads_nothing_heavy():
    code = "import sys, cnnray; print([m for m in ('torch', 'ray', 'faiss', 'numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
