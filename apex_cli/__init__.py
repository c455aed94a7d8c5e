"""apex: turn a flow-matching text-to-image model into a one-step model, and prove it."""

from apex_cli import torchvision_guard

__version__ = "0.1.0"

torchvision_guard.install()  # before anything imports transformers or diffusers, which look at torchvision
