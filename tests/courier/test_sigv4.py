"""The signature of Amazon's own example."""

from __future__ import annotations

from datetime import UTC, datetime

from appliance.courier.sigv4 import EMPTY_SHA256, S3Key, signed_headers


def test_amazons_example_of_a_get_is_signed_as_amazon_says() -> None:
    key = S3Key("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    at = datetime(2013, 5, 24, tzinfo=UTC)

    found = signed_headers("GET", "examplebucket.s3.amazonaws.com", "/test.txt", {}, {"Range": "bytes=0-9"}, EMPTY_SHA256, key, at)

    assert found["authorization"].endswith("Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")
    assert key.secret not in str(found)
    assert key.secret not in repr(key)


def test_amazons_example_of_a_list_is_signed_as_amazon_says() -> None:
    key = S3Key("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    query = {"prefix": "J", "max-keys": "2"}
    at = datetime(2013, 5, 24, tzinfo=UTC)

    found = signed_headers("GET", "examplebucket.s3.amazonaws.com", "/", query, {}, EMPTY_SHA256, key, at)

    assert found["authorization"].endswith("Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")
