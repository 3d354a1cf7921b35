"""What all factories of plug-ins have in common."""

from __future__ import annotations

from twisted.plugin import IPlugin
from zope.interface import Attribute


class IFactory(IPlugin):
    """What all factories of plug-ins have in common."""

    name = Attribute("str: by which configuration files select it.")
    help = Attribute("str: one line for people.")
    config_type = Attribute("The protobuf message class of its configuration, or None if it takes none.")


# ---- server side ----------------------------------------------------------------------------------------------
