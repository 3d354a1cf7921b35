"""Registers the factory."""

from fleetspeak_admission.authorizer import AdmissionFactory

admission = AdmissionFactory()
