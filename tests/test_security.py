"""Configuration is data: nothing that is read is ever run."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("data_prep", "stfnet_tf")
NEVER_CALLED = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "marshal.loads"),
    *("subprocess.run", "subprocess.Popen", "keras.models.load_model", "tf.py_function"),
    *("keras.saving.load_model", "tf.numpy_function", "tf.keras.models.load_model"),
}
NEVER_IMPORTED = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "yaml", "shelve", "marshal"}
NEVER_ARGUED = {"allow_pickle", "shell", "verify"}


def sources():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text())


def test_no_code_and_no_pickle_in_what_is_read():
    found, calls = [], 0
    for path, tree in sources():
        for node in ast.walk(tree):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None)
                names = [module] if module else [k.name for k in node.names]
                found += [f"{where} {k}" for k in names if k and k.split(".")[0] in NEVER_IMPORTED]
            elif isinstance(node, ast.Call):
                calls += 1
                name = ast.unparse(node.func)
                found += [f"{where} {name}"] * (name in NEVER_CALLED)
                found += [f"{where} {k.arg}=" for k in node.keywords if k.arg in NEVER_ARGUED]
    assert not found
    assert calls > 3000
