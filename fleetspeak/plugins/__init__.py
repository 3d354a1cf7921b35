"""Where plug-ins live: ours are in this folder, others' in a `fleetspeak/plugins/` of their own (without __init__)."""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))  # type: ignore[no-untyped-call]
__all__: list[str] = []
