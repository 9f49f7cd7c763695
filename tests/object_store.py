"""A real server that speaks S3, moto's, in a thread of the tests, and a bucket of one's own in it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

NAMES = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


@dataclass(frozen=True, kw_only=True)
class S3:
    """A bucket, and the environment in which a process finds its server."""

    client: Any
    bucket: str
    env: dict[str, str]

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/artifacts"

    def stored(self) -> list[str]:
        """Return the keys of all objects."""
        return [each["Key"] for each in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]

    def versions(self) -> list[str]:
        """Return the key of each version and deletion marker."""
        found = self.client.list_object_versions(Bucket=self.bucket)
        return [each["Key"] for each in (*found.get("Versions", []), *found.get("DeleteMarkers", []))]

    def uploads(self) -> list[str]:
        """Return the key of each upload that was not finished."""
        found = self.client.list_multipart_uploads(Bucket=self.bucket)
        return [each["Key"] for each in found.get("Uploads", [])]

    def version_objects(self, status: str = "Enabled") -> None:
        self.client.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": status})


@contextmanager
def s3_server() -> Iterator[str]:
    """Yield the address of a server on the loopback."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def fresh_bucket(server: str) -> Iterator[S3]:
    """Yield an empty bucket; while it is there this process's environment names its server."""
    env = dict(zip(NAMES, (server, "test", "test", "us-east-1"), strict=True))
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    client = boto3.client("s3", endpoint_url=server, region_name="us-east-1")
    name = f"bucket-{secrets.token_hex(8)}"
    client.create_bucket(Bucket=name)
    try:
        yield S3(client=client, bucket=name, env=env)
    finally:
        client.close()
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value
