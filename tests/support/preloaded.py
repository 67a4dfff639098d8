"""What every command imports, and Hydra's search for its plugins: done once, in the process that test commands are forked from.

Nothing that depends on plugin folders is looked up here.
"""

import importlib
import pkgutil

from hydra import compose, initialize_config_dir

from implicit_bias import datasets, losses, models, norms, optimizers, probes, schedules
from implicit_bias.config.files import config_directory

PACKAGES = (datasets, losses, models, norms, optimizers, probes, schedules)
MODULES = (
    "pytest",
    "tests.support.commands",
    "implicit_bias.cli.progress",
    "implicit_bias.cli.tables",
    "implicit_bias.config.overrides",
    "implicit_bias.config.schema",
    "implicit_bias.sweep.clusters.launch",
    "implicit_bias.sweep.execute",
    *(module.name for package in PACKAGES for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")),
)

for name in MODULES:
    importlib.import_module(name)
with initialize_config_dir(config_dir=str(config_directory()), version_base="1.3"):
    compose("config")
