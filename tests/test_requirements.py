import ast
import configparser
import importlib.metadata
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imported() -> dict[str, Path]:
    """What the packages import from elsewhere, each with a file that does."""
    found = {}
    for path in [*ROOT.glob("data_prep/**/*.py"), *ROOT.glob("stfnet_tf/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            found |= {name.partition(".")[0]: path for name in names}
    own = {"data_prep", "stfnet_tf"}
    return {k: v for k, v in found.items() if k not in own | sys.stdlib_module_names}


def test_whatever_is_imported_is_declared():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"] + "".join(
        config["options.extras_require"].values()
    )
    declared = {name.lower() for name in re.findall(r"^[\w-]+", lines, re.MULTILINE)}
    providers = importlib.metadata.packages_distributions()
    for module, path in imported().items():
        names = {name.lower().replace("_", "-") for name in providers.get(module, [module])}
        assert names & declared, f"{path} imports {module}, which setup.cfg does not declare"
