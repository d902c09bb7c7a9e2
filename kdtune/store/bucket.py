"""A bucket as a place for objects: `s3://`, `gs://`, `az://`, through obstore. Only `objects` opens one.

A bucket that is away for a while is asked again, with growing pauses, for PATIENCE_S; only then is that an error. Every
read is one request. An object is created or replaced under a condition that the bucket itself decides: of two writers
one is refused, however slow their requests are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from kdtune.store.backend import Backend, patient

if TYPE_CHECKING:
    from obstore.store import ObjectStore

IMPATIENCE_S = 10.0  # before anything has started: a name that is wrong stays so
ANSWER_S = 60.0  # for one request, of megabytes at most
REFUSED = re.compile(r"status code: 4(?!08|29)\d\d")  # the request is wrong, not the time
UNCONDITIONAL = (
    "the place does not write under a condition, so two commands could both win a run; results need a bucket of S3, "
    "Google or Azure, or a service that knows If-None-Match and If-Match"
)
SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
URL = re.compile(r"https?://[\w.\-\[\]:]+(/[\w.\-/%~]*)?")
OPTIONS = ("endpoint", "region")  # what a URI may say behind its question mark
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
# Where a bucket is, and nothing secret: what workers are given of the environment of the command that starts a sweep.
ENVIRONMENT = (*ENDPOINTS, "AWS_REGION", "AWS_DEFAULT_REGION", "AZURE_STORAGE_ACCOUNT_NAME")


def opened(uri: str, patience: float) -> ObjectStore:
    """The bucket of a URI, and the prefix in it. OSError for one that cannot be used.

    Endpoint and region come from the query (`s3://bucket/prefix?endpoint=URL&region=NAME`) or from the variables
    that AWS, Google and Azure have for them; credentials from such variables, from `aws configure`, from the machine.
    """
    from obstore import store
    from obstore.exceptions import BaseError

    try:
        parts = urlsplit(uri)
        options = dict(parse_qsl(parts.query))
        authority = urlsplit(options.get("endpoint", "")).netloc
    except ValueError as error:
        raise OSError(0, f"it is no URI: {error}") from error
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise OSError(0, f"{', '.join(unknown)} cannot stand behind its '?', only {' and '.join(OPTIONS)}")
    if parts.scheme not in SCHEMES:
        raise OSError(0, f"{parts.scheme}:// is none of {', '.join(SCHEMES)}")
    if "@" in authority:
        raise OSError(0, "credentials do not belong into its endpoint, where others read them")
    if "/" in (region := options.get("region", "")):
        raise OSError(0, f"its region {region} has a /: folders stand before the '?'")
    endpoint = endpoint_of(options)
    if endpoint and not URL.fullmatch(endpoint):  # obstore's own word for it is a panic
        raise OSError(0, f"its endpoint {endpoint} is no URL such as http://127.0.0.1:9000")
    answer = timedelta(seconds=min(ANSWER_S, patience))
    given: dict[str, Any] = {
        "client_options": {"timeout": answer, "allow_http": endpoint.startswith("http://")},
        "retry_config": {"max_retries": 0},  # `patient` does that: obstore hears no signal meanwhile
    }
    if options:
        given["config"] = options
    if parts.scheme in ("s3", "s3a") and (provider := _from_files()) is not None:
        given["credential_provider"] = provider
    try:
        return store.from_url(parts._replace(query="").geturl(), **given)
    except (BaseError, ValueError, TypeError) as error:
        raise OSError(0, _first_line(error)) from error


def endpoint_of(options: Mapping[str, str]) -> str:
    """The service that a URI's options name, or the environment; empty: the cloud's own."""
    return options.get("endpoint") or next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")


def _from_files() -> Any:
    """Credentials as `aws configure` or AWS_PROFILE leave them; obstore itself looks at variables and the machine."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return None
    places = (("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), ("AWS_CONFIG_FILE", "~/.aws/config"))
    if not any(Path(os.path.expanduser(os.environ.get(name, usual))).is_file() for name, usual in places):
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return None
    try:
        return Boto3CredentialProvider()
    except ValueError:  # files that hold none
        return None
    except Exception as error:  # botocore's: a profile that is not there, a file that cannot be read
        raise OSError(errno.EACCES, " ".join(str(error).split())) from error


class Bucket(Backend):
    """A bucket, or a prefix in one: `uri` as given, or `store`, an obstore store of the caller's own."""

    def __init__(self, uri: str, store: ObjectStore | None = None, patience: float | None = None) -> None:
        self.root = uri.rstrip("/")
        self._given, self._patience = store, patience
        self._opened = store if store is not None else opened(uri, self.patience)

    def __reduce__(self) -> Any:  # connections do not travel to other processes
        return Bucket, (self.root, self._given, self._patience)

    @property
    def patience(self) -> float:
        return super().patience if self._patience is None else self._patience

    @patient
    def write(self, key: str, data: bytes, durable: bool) -> None:
        with explained():
            self._opened.put(key, data, use_multipart=False)

    def create(self, key: str, data: bytes, durable: bool) -> bool:
        return self._decided(key, data, "create")

    @patient
    def versioned(self, key: str) -> tuple[bytes, Any] | None:
        with explained():
            try:
                found = self._opened.get(key)
                # S3 and Azure go by the tag, Google by the version.
                version = {name: found.meta[name] for name in ("e_tag", "version") if found.meta.get(name)}
                return bytes(found.bytes()), version
            except FileNotFoundError:
                return None

    def replace(self, key: str, data: bytes, version: Any) -> bool:
        return self._decided(key, data, version)

    @patient
    def read(self, key: str) -> bytes | None:
        with explained():
            try:
                return bytes(self._opened.get(key).bytes())
            except FileNotFoundError:
                return None

    @patient
    def exists(self, key: str) -> bool:
        with explained():
            try:
                self._opened.head(key)
            except FileNotFoundError:
                return False
            return True

    def names(self, folder: str) -> Iterator[str]:
        return (key for key, _ in self.sizes(folder))

    @patient
    def sizes(self, folder: str) -> Iterator[tuple[str, tuple[int, float]]]:
        with explained():
            listed = [*self._opened.list(prefix=folder or None, chunk_size=1000)]
        return ((each["path"], (each["size"], each["last_modified"].timestamp())) for some in listed for each in some)

    @patient
    def delete(self, key: str) -> None:
        with explained(), contextlib.suppress(FileNotFoundError):
            self._opened.delete(key)

    @patient
    def preserve(self, key: str, aside: str) -> None:
        with explained():
            self._opened.copy(key, aside)

    def move(self, key: str, to: str) -> None:
        inside = [key] if self.exists(key) else sorted(self.names(key))
        for each in inside:
            self.preserve(each, f"{to}{each.removeprefix(key)}")
        for each in inside:  # not before all are there: what is cut short has lost nothing
            self.delete(each)

    def refuse_link(self, key: str) -> None:
        """A bucket has none."""

    def lock(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def remove_leftovers(self, folder: str, age: float) -> None:
        """A bucket drops unfinished uploads itself."""

    def knock(self) -> None:
        Bucket(self.root, self._given, IMPATIENCE_S).exists("knock")

    def probe(self, key: str, data: bytes) -> str:
        place = Bucket(self.root, self._given, IMPATIENCE_S)
        if not place.create(key, data, durable=True):
            return "an object that nobody wrote is there"
        try:
            found = place.versioned(key)
            if found is None or found[0] != data or key not in place.names(os.path.dirname(key)):
                return "what was written there is not what is read"
            if place.create(key, b"another", durable=True) or not place.replace(key, b"next", found[1]):
                return UNCONDITIONAL
            return UNCONDITIONAL if place.replace(key, b"late", found[1]) else ""
        finally:
            place.delete(key)

    @patient
    def _decided(self, key: str, data: bytes, mode: Any) -> bool:
        """A write under a condition. Where no answer came it may have been done all the same: what is there says so."""
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        with explained():
            try:
                self._opened.put(key, data, mode=mode, use_multipart=False)
                return True
            except NotSupportedError as error:
                raise OSError(errno.ENOTSUP, UNCONDITIONAL) from error
            except (AlreadyExistsError, PreconditionError):
                return self.read(key) == data  # ours, of a request whose answer was lost
            except FileNotFoundError:
                if mode == "create":  # there is no such bucket
                    raise
                return False


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """obstore's errors as OSError, in one line."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except FileNotFoundError as error:
        raise OSError(errno.ENOENT, _first_line(error)) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise OSError(errno.EACCES, _first_line(error)) from error
    except BaseError as error:
        refused = REFUSED.search(str(error)) is not None
        raise OSError(errno.EINVAL if refused else errno.ETIMEDOUT, _first_line(error)) from error


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).partition("Debug source")[0].split())
