import pytest

from maille_broker import BrokerConfigError, Endpoint, parse_url


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("mqtt://broker", Endpoint("broker", 1883)),
        ("mqtt://broker:1999/", Endpoint("broker", 1999)),
        ("mqtts://broker", Endpoint("broker", 8883, tls=True)),
        ("mqtt://[::1]:1884", Endpoint("::1", 1884)),
        ("mqtt://me@broker", Endpoint("broker", 1883, username="me")),
        (
            "mqtt://node%2Fpc:p%40ss@broker",
            Endpoint("broker", 1883, username="node/pc", password="p@ss"),
        ),
    ],
)
def test_reads_addresses(text: str, endpoint: Endpoint) -> None:
    assert parse_url(text) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "broker",
        "broker:1883",
        "http://broker",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://broker:0",
        "mqtt://broker:99999",
        "mqtt://broker:port",
        "mqtt://broker/path",
        "mqtt://broker?x=1",
        "mqtt://:word-nobody-may-see@broker",
        "mqtt://user:word-nobody-may-see@",
        "mqtt://user:word-nobody-may-see#x@broker",
        "mqtt://[::1",
    ],
)
def test_refuses_other_texts_without_showing_the_password(text: str) -> None:
    with pytest.raises(BrokerConfigError, match="mqtt://host:1883") as caught:
        parse_url(text)
    assert "word-nobody-may-see" not in str(caught.value)


def test_password_is_shown_nowhere() -> None:
    endpoint = Endpoint("broker", 1883, username="node/pc", password="word-nobody-may-see")
    assert "word-nobody-may-see" not in f"{endpoint!r} {endpoint} {endpoint.url}"
    assert parse_url(endpoint.url) == endpoint.with_credentials("node/pc", None)


def test_certificate_file_needs_tls_and_must_exist() -> None:
    with pytest.raises(BrokerConfigError, match="mqtts://"):
        parse_url("mqtt://broker", ca_file="/nowhere.pem")
    with pytest.raises(BrokerConfigError, match=r"nowhere\.pem"):
        parse_url("mqtts://broker", ca_file="/nowhere.pem").tls_context()
