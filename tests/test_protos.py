"""The messages: the generated modules are those of protos/, and their descriptors those of the protocol.

tests/vectors/schema.txt was written from the description of the protocol, not from protos/.
"""

from __future__ import annotations

import filecmp
import importlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto
from twisted.trial.unittest import SynchronousTestCase

import fleetspeak.pb

TOP = Path(__file__).resolve().parents[1]
OURS = {TOP / "protos" / "fleetspeak" / "src" / name for name in ("operator", "server/grpctlsservice")}
"""What is beside the protocol of others."""

SCHEMA = Path(__file__).with_name("vectors") / "schema.txt"

_SCALARS = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in vars(FieldDescriptor)
    if name.startswith("TYPE_")
}


def describe(file: FileDescriptor) -> list[str]:
    """A file's content as schema.txt says it."""
    lines = [f"file {file.name}", f"  package {file.package}"]
    lines += [f"  import {name}" for name in sorted(imported.name for imported in file.dependencies)]
    declarations = []
    for message in file.message_types_by_name.values():
        declarations += list(describe_message(message))
    declarations += [describe_enum(enum) for enum in file.enum_types_by_name.values()]
    for service in file.services_by_name.values():
        methods = [
            f"  {method.name} {'stream ' * method.client_streaming}{method.input_type.full_name}"
            f" -> {'stream ' * method.server_streaming}{method.output_type.full_name}"
            for method in service.methods
        ]
        declarations.append([f"service {service.full_name}", *methods])
    for declaration in sorted(declarations, key=lambda declaration: declaration[0]):
        lines += declaration
    return lines


def describe_message(message: Descriptor) -> Iterator[list[str]]:
    lines = [f"message {message.full_name}", *map(describe_field, message.fields)]
    content = DescriptorProto()
    message.CopyToProto(content)
    if content.reserved_range:
        numbers = [number for part in content.reserved_range for number in range(part.start, part.end)]
        lines.append(f"  reserved {' '.join(map(str, numbers))}")
    yield lines
    for enum in message.enum_types:
        yield describe_enum(enum)
    for inner in message.nested_types:
        if not inner.GetOptions().map_entry:
            yield from describe_message(inner)


def describe_enum(enum: EnumDescriptor) -> list[str]:
    return [f"enum {enum.full_name}", *(f"  {value.number} {value.name}" for value in enum.values)]


def describe_field(field: FieldDescriptor) -> str:
    words = [str(field.number), field.name, type_name(field)]
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        words.append("map")
    elif field.is_repeated:
        words.append("repeated")
    if field.containing_oneof is not None:
        words.append(f"oneof={field.containing_oneof.name}")
    if field.GetOptions().deprecated:
        words.append("deprecated")
    return "  " + " ".join([*words, f"json={field.json_name}"])


def type_name(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return str(field.enum_type.full_name)
    if field.message_type is None:
        return _SCALARS[field.type]
    if field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return f"map<{type_name(key)},{type_name(value)}>"
    return str(field.message_type.full_name)


class ProtosTests(SynchronousTestCase):
    maxDiff = None

    def test_the_descriptors_are_those_of_the_protocol(self) -> None:
        """Names, numbers, types, labels, oneofs, JSON names, packages, services, and no file more or less."""
        described: list[str] = []
        for path in sorted((TOP / "protos").rglob("*.proto")):
            if OURS & set(path.parents):
                continue
            name = str(path.relative_to(TOP / "protos"))
            module = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
            self.assertEqual(module.DESCRIPTOR.name, name)
            described += describe(module.DESCRIPTOR)
        self.assertEqual(described, SCHEMA.read_text().splitlines())

    def test_the_go_package_is_part_of_what_users_link_against(self) -> None:
        for module in vars(fleetspeak.pb).values():
            if descriptor := getattr(module, "DESCRIPTOR", None):
                folder = descriptor.name.rpartition("/")[0]
                if OURS & set((TOP / "protos" / folder).parents):
                    continue
                self.assertEqual(descriptor.GetOptions().go_package, f"github.com/google/fleetspeak/{folder}")

    def test_pb_names_every_file(self) -> None:
        named = {
            module.DESCRIPTOR.name for name, module in vars(fleetspeak.pb).items() if name in fleetspeak.pb.__all__
        }
        files = {str(path.relative_to(TOP / "protos")) for path in (TOP / "protos").rglob("*.proto")}
        self.assertEqual(named, files)

    def test_generating_again_changes_nothing(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([TOP / "tools" / "make-protos", folder], check=True)
            fresh = {path.relative_to(folder) for path in Path(folder).rglob("*.py*") if path.name != "__init__.py"}
            kept = {
                path.relative_to(TOP)
                for path in (TOP / "fleetspeak" / "src").rglob("*.py*")
                if path.suffix in (".py", ".pyi") and path.name != "__init__.py"
            }
            self.assertEqual(kept, fresh)
            for name in fresh:
                self.assertTrue(filecmp.cmp(TOP / name, Path(folder) / name, shallow=False), f"{name} is out of date")
