"""Installs the services of a client, restarts them, and ends them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from fleetspeak.client.addressing import RESERVED_NAMES
from fleetspeak.client.flow import Flow
from fleetspeak.client.inbox import Inbox
from fleetspeak.client.reports import Reports
from fleetspeak.client.router import Router
from fleetspeak.client.services.loader import Loaded, ServiceFile
from fleetspeak.core.reload import plan_services
from fleetspeak.errors import ConfigError, FleetspeakError
from fleetspeak.interfaces import IClientService, IClientServiceContext, IClientServiceFactory
from fleetspeak.lookup import PLUG_INS, make
from fleetspeak.pb import system
from fleetspeak.program.awaiting import within

START_LIMIT = 10.0
"""Seconds a service may take to start; one that takes longer is not installed."""

STOP_LIMIT = 5.0
"""Seconds a service may take to stop; one that takes longer is left behind.  A daemon is killed after 2 s."""


class ServiceProblem(FleetspeakError):
    """A service cannot be restarted; the text goes to the server."""


class MakeContext(Protocol):
    """Makes what a service may use."""

    def __call__(self, service_name: str, service_names: Callable[[], list[str]], /) -> IClientServiceContext: ...


@dataclass(slots=True, eq=False)
class _Installed:
    """A service that runs, and what it was made from."""

    file: ServiceFile
    service: IClientService
    inbox: Inbox
    stopped: bool = False
    """Whether it was told to stop, which is done once."""


class ServiceManager:
    """The services by name, each with its inbox.

    What stops a service never waits for what the service is processing: that is cancelled first.
    """

    _log = Logger()

    def __init__(
        self,
        factories: Mapping[str, IClientServiceFactory],
        labels: Sequence[str],
        router: Router,
        flow: Flow,
        reports: Reports,
        make_context: MakeContext,
        clock: Any,
    ) -> None:
        self._factories = factories
        self._labels = labels
        self._router = router
        self._flow = flow
        self._reports = reports
        self._make_context = make_context
        self._clock = clock
        self._installed: dict[str, _Installed] = {}
        self._changing = DeferredLock()
        self._closed = False

    def names(self) -> list[str]:
        """The installed services, without ``system``."""
        return list(self._installed)

    def installed(self) -> list[system.ClientInfoData.ServiceID]:
        """The same with the signatures their configurations came with, as a ClientInfo wants them."""
        return [
            system.ClientInfoData.ServiceID(name=name, signature=installed.file.signature)
            for name, installed in self._installed.items()
        ]

    async def install(self, files: Iterable[ServiceFile]) -> None:
        """Start these services; of two with one name the later wins.  One that fails is logged and skipped."""
        await self._changing.acquire()
        try:
            for file in files:
                if self._closed:
                    break
                await self._install_one(file)
        finally:
            self._changing.release()

    async def update(self, loaded: Loaded) -> None:
        """Install exactly these: what is new is started, what is gone stopped, what has changed replaced.

        What has not changed is not touched.  Nor is a service whose new configuration cannot be used.
        """
        await self._changing.acquire()
        try:
            files = {file.config.name: file for file in loaded.files if self._is_for_this_client(file)}
            spared = [name for name, one in self._installed.items() if loaded.is_unusable(one.file.path)]
            plan = plan_services(
                {name: installed.file.fingerprint for name, installed in self._installed.items()},
                [(name, file.fingerprint) for name, file in files.items()],
                spared,
            )
            for name in plan.keep:
                self._installed[name].file = files.get(name, self._installed[name].file)
            for name in spared:
                if name in plan.keep and name not in files:
                    self._log.error("service {service} goes on with the configuration it has", service=name)
            for name in plan.stop:
                await self._uninstall(name)
            for name in (*plan.replace, *plan.start):
                if self._closed:
                    break
                await (self._replace(files[name]) if name in plan.replace else self._install_one(files[name]))
        finally:
            self._changing.release()

    async def restart(self, name: str) -> None:
        """Stop a service and start it anew from the same configuration; what is queued for it stays.

        @raise ServiceProblem: there is none, or it did not start again and is gone.
        @raise CancelledError: the client is stopping.
        """
        if name in RESERVED_NAMES:
            raise ServiceProblem(f"can't restart service: illegal service name [{name}]")
        await self._changing.acquire()
        try:
            installed = self._installed.get(name)
            if installed is None:
                raise ServiceProblem(f"failed to remove non-existent service: {name}")
            installed.inbox.detach()
            await self._stop_one(installed)
            if self._closed:
                raise CancelledError("the client is stopping")
            try:
                service = await self._start(installed.file)
            except CancelledError:
                raise
            except Exception as error:
                self._remove(name)
                raise ServiceProblem(f"can't reinstall service '{name}' on restart: {error}") from error
            self._installed[name] = _Installed(installed.file, service, installed.inbox)
            installed.inbox.attach(service)
        finally:
            self._changing.release()
        self._log.info("service {service} restarted", service=name)

    def close(self) -> None:
        """Install no more: the client is stopping."""
        self._closed = True

    async def stop(self) -> None:
        """Cancel what is being processed, then stop all services, side by side.  Takes at most `STOP_LIMIT`."""
        self.close()
        leaving = list(self._installed.values())
        for installed in leaving:
            installed.inbox.close()
        stops = [Deferred.fromCoroutine(self._stop_one(installed)) for installed in leaving if not installed.stopped]
        await DeferredList(stops, consumeErrors=True)

    # ---- one service

    async def _install_one(self, file: ServiceFile) -> None:
        name = file.config.name
        try:
            service = await self._start(file)
        except ConfigError as error:
            self._log.error("service not installed: {error}", error=error)
            return
        except Exception as error:
            self._log.error(
                "service not installed: {path}: {service!r} failed to start: {error}",
                path=file.path,
                service=name,
                error=str(error) or type(error).__name__,
            )
            self._log.debug("{traceback()}", traceback=Failure().getTraceback)  # type: ignore[no-untyped-call]
            return
        previous = self._installed.get(name)
        if previous is None:
            inbox = Inbox(name, self._flow, self._reports, self._clock)
            self._flow.add_service(name)
            self._router.add(name, inbox)
        else:
            self._log.warn(
                "service {service} of {path} replaces the one of {previous}",
                service=name,
                path=file.path,
                previous=previous.file.path,
            )
            inbox = previous.inbox
            inbox.detach()
            await self._stop_one(previous)
        self._installed[name] = _Installed(file, service, inbox)
        inbox.attach(service)
        self._log.info("service {service} installed from {path}", service=name, path=file.path)

    async def _uninstall(self, name: str) -> None:
        installed = self._installed[name]
        installed.inbox.detach()
        await self._stop_one(installed)
        self._remove(name)
        self._log.info("service {service} removed", service=name)

    async def _replace(self, file: ServiceFile) -> None:
        """Stop a service and start it with another configuration; with the old one again if that fails.

        One after the other, because two at a time might want the same socket, port or file.
        """
        name = file.config.name
        previous = self._installed[name]
        try:
            service = self._make(file)
        except Exception as error:
            self._log.error(
                "service {service} goes on with the configuration it has: {error}",
                service=name,
                error=str(error) or type(error).__name__,
            )
            return
        inbox = previous.inbox
        inbox.detach()
        await self._stop_one(previous)
        for used in (file, previous.file):
            if self._closed:
                return
            try:
                if used is not file:
                    service = self._make(used)
                await self._begin(service)
            except Exception as error:
                self._log.error(
                    "service {service} of {path} failed to start: {error}",
                    service=name,
                    path=used.path,
                    error=str(error) or type(error).__name__,
                )
                continue
            self._installed[name] = _Installed(used, service, inbox)
            inbox.attach(service)
            self._log.info("service {service} replaced, from {path}", service=name, path=used.path)
            return
        self._remove(name)

    async def _start(self, file: ServiceFile) -> IClientService:
        """Check, build and start.  Raises ConfigError, or whatever the service raises."""
        service = self._make(file)
        await self._begin(service)
        return service

    async def _begin(self, service: IClientService) -> None:
        """Start it.  Raises whatever the service raises, TimeoutError, or CancelledError if the client is stopping."""
        await within(START_LIMIT, service.start(), self._clock)
        if self._closed:  # and whoever stops all services does not know this one
            await within(STOP_LIMIT, service.stop(), self._clock)
            raise CancelledError("the client is stopping")

    def _make(self, file: ServiceFile) -> IClientService:
        """Check and build.  Raises ConfigError, or whatever the factory raises."""
        factory = self._factory_of(file)
        config = _unpack_config(file, factory)
        context = self._make_context(file.config.name, self.names)
        try:
            service: IClientService = make(factory, IClientService, config, context)
        except ConfigError as error:
            raise ConfigError(f"{file.where('config')}: service {file.config.name!r}: {error}") from error
        return service

    def _factory_of(self, file: ServiceFile) -> IClientServiceFactory:
        config = file.config
        if config.name in RESERVED_NAMES:
            raise ConfigError(f"{file.where('name')}: illegal service name [{config.name}], expected one of your own")
        self._check_labels(file)
        factory = self._factories.get(config.factory)
        if factory is None:
            raise ConfigError(
                f'{file.where("factory")}: factory not found: "{config.factory}", expected one of '
                f"{', '.join(sorted(self._factories))}{PLUG_INS.blame()}"
            )
        return factory

    def _is_for_this_client(self, file: ServiceFile) -> bool:
        try:
            self._check_labels(file)
        except ConfigError as error:
            self._log.error("service not installed: {error}", error=error)
            return False
        return True

    def _check_labels(self, file: ServiceFile) -> None:
        """Raises ConfigError if the client has not all that the service requires."""
        for label in file.config.required_labels:
            if label.service_name == "client" and label.label not in self._labels:
                raise ConfigError(
                    f"{file.where('required_labels')}: service config [{file.config.name}] requires label "
                    f"client:{label.label}, this client has {', '.join(sorted(self._labels))}"
                )

    async def _stop_one(self, installed: _Installed) -> None:
        installed.stopped = True
        try:
            await within(STOP_LIMIT, installed.service.stop(), self._clock)
        except Exception as error:
            self._log.error(
                "service {service} did not stop cleanly: {error}",
                service=installed.file.config.name,
                error=str(error) or type(error).__name__,
            )
            self._log.debug("{traceback()}", traceback=Failure().getTraceback)  # type: ignore[no-untyped-call]

    def _remove(self, name: str) -> None:
        installed = self._installed.pop(name)
        self._router.remove(name)
        self._flow.remove_service(name)
        installed.inbox.close()


def _unpack_config(file: ServiceFile, factory: IClientServiceFactory) -> ProtobufMessage | None:
    """The configuration of the factory's own type, or None if there is none."""
    packed = file.config.config
    if not packed.type_url or factory.config_type is None:
        return None
    config: ProtobufMessage = factory.config_type()
    try:
        if packed.Unpack(config):
            return config
    except DecodeError:
        raise ConfigError(f"{file.where('config')}: the bytes of its config cannot be parsed") from None
    raise ConfigError(
        f"{file.where('config')}: config is of type {packed.TypeName()}, expected "
        f"{config.DESCRIPTOR.full_name} for factory {file.config.factory!r}"
    )
