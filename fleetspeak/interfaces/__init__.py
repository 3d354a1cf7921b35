"""Every interface that an installation may implement itself: the plug-in points, and the store.

Plug-ins are found by `twisted.plugin.getPlugins(interface, fleetspeak.plugins)`, and therefore provide
`twisted.plugin.IPlugin` as well; the built-in ones are registered the same way, in `fleetspeak/plugins/`, so that
they are the documentation.

Unless a method says otherwise it is called in the reactor's thread and must not block.  *Awaitable* below
means a Deferred or a coroutine; where "or None" is added, None means that the work is done already, which
saves the hot path a Deferred.
"""

from __future__ import annotations

from fleetspeak.interfaces.client import (
    IClientService,
    IClientServiceContext,
    IClientServiceFactory,
    IClientStats,
    ICommunicator,
    ICommunicatorFactory,
    IContactSigner,
    IDialer,
    IPersistence,
)
from fleetspeak.interfaces.factory import IFactory
from fleetspeak.interfaces.operatorstore import IOperatorStore
from fleetspeak.interfaces.server import (
    IAuthorizer,
    IAuthorizerFactory,
    IBatchServerService,
    IFileStore,
    IFileStoreFactory,
    IFileWriter,
    IListener,
    IManagedFileStore,
    INotifier,
    INotifierFactory,
    IOpenFile,
    IServerEndpoint,
    IServerService,
    IServerServiceContext,
    IServerServiceFactory,
)
from fleetspeak.interfaces.stats import IServerStats
from fleetspeak.interfaces.store import IStore, IStoreFactory

__all__ = [
    "IAuthorizer",
    "IAuthorizerFactory",
    "IBatchServerService",
    "IClientService",
    "IClientServiceContext",
    "IClientServiceFactory",
    "IClientStats",
    "ICommunicator",
    "ICommunicatorFactory",
    "IContactSigner",
    "IDialer",
    "IFactory",
    "IFileStore",
    "IFileStoreFactory",
    "IFileWriter",
    "IListener",
    "IManagedFileStore",
    "INotifier",
    "INotifierFactory",
    "IOpenFile",
    "IOperatorStore",
    "IPersistence",
    "IServerEndpoint",
    "IServerService",
    "IServerServiceContext",
    "IServerServiceFactory",
    "IServerStats",
    "IStore",
    "IStoreFactory",
]
