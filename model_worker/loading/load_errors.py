"""Why a model cannot be served: each is one line that names the folder, the file or the model. No torch here."""

from __future__ import annotations


class LoadError(Exception):
    """The worker cannot serve this model with these settings. The message is one clear line for the operator."""


class ModelFolderError(LoadError):
    """A folder of a model or an adapter is missing, incomplete, or holds what is never loaded (code, pickles)."""


class UnsupportedModelError(LoadError):
    """The model's computation is not one that the engine reproduces exactly."""


class UnavailableOptionError(LoadError):
    """An option asks for what this machine or this model does not have."""


class AdapterError(LoadError):
    """A LoRA adapter does not fit its base model, or is of a kind that is not served."""


class ScriptError(LoadError):
    """The script of a scripted worker says what cannot be."""
