"""apex: turn a flow-matching text-to-image model into a one-step model, and prove it."""

__version__ = "0.1.0"
