"""Signatures of service configurations: RSASSA-PSS with SHA-256 and MGF1 over SHA-256, over the serialized bytes."""

from __future__ import annotations

from collections.abc import Iterable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from fleetspeak.pb import system

_HASH = hashes.SHA256()
_MGF = padding.MGF1(_HASH)


def sign(
    config: system.ClientServiceConfig, key: RSAPrivateKey, now: float | None = None
) -> system.SignedClientServiceConfig:
    """Sign a service configuration with a deployment key.

    @param now: seconds since the epoch, noted as the time of signing; None leaves `config.signed_time` as it is.
    """
    signed = system.ClientServiceConfig()
    signed.CopyFrom(config)
    if now is not None:
        signed.signed_time.FromSeconds(int(now))
    body = signed.SerializeToString(deterministic=True)
    pss = padding.PSS(mgf=_MGF, salt_length=padding.PSS.MAX_LENGTH)
    return system.SignedClientServiceConfig(service_config=body, signature=key.sign(body, pss, _HASH))


def verify(signed: system.SignedClientServiceConfig, public_keys: Iterable[RSAPublicKey]) -> bool:
    """Has one of these deployment keys signed it?  Salts of any length are accepted; no keys: False."""
    pss = padding.PSS(mgf=_MGF, salt_length=padding.PSS.AUTO)
    for key in public_keys:
        try:
            key.verify(signed.signature, signed.service_config, pss, _HASH)
        except InvalidSignature:
            continue
        return True
    return False
