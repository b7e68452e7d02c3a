"""Contract tests: whether a newer OpenAPI document of another service breaks a service that relies on an older one."""

from .check import ContractBrokenError, check_contract

__all__ = ["ContractBrokenError", "check_contract"]
