"""TLS with certificates on both sides at a real mosquitto: who gets in as whom, and what everybody else is told."""

import asyncio
import os
import shutil

import pytest
from certificates import Authority
from house import FakeOutlet, House, delivery, sent, until

from drivers.mqtt import Options as DriverOptions
from drivers.mqtt import plugin as driver
from gateway.mqtt import Broker, BrokerOptions, LinkLost
from gateway.quantity import Duration, Secret
from gateway.testing import Mosquitto, free_port
from sinks.mqtt import Options as SinkOptions
from sinks.mqtt import plugin as sink

pytestmark = pytest.mark.integration

PAST = ("20200101000000Z", "20210101000000Z")
FUTURE = ("20500101000000Z", "20510101000000Z")


class Papers:
    """Every certificate of these tests."""

    def __init__(self, folder):
        ours, theirs = Authority(folder / "ours"), Authority(folder / "theirs", "another ca")
        self.ca, self.other_ca = str(ours.ca), str(theirs.ca)
        self.server = ours.issue("localhost", file="server")
        self.old_server = ours.issue("localhost", file="old-server", valid=PAST)
        self.coming_server = ours.issue("localhost", file="coming-server", valid=FUTURE)
        self.elsewhere = ours.issue("elsewhere", file="elsewhere", hosts="DNS:broker.elsewhere")
        self.good = ours.issue("gw-1")
        self.next = ours.issue("gw-1", file="gw-1-renewed")
        self.expired = ours.issue("gw-2", valid=PAST)
        self.coming = ours.issue("gw-3", valid=FUTURE)
        self.revoked = ours.issue("gw-4")
        self.encrypted = ours.issue("gw-1", file="encrypted", password="open sesame")
        self.foreign = theirs.issue("gw-5")
        ours.revoke(self.revoked[0])
        self.crl = ours.crl()

    def listener(self, server=None, asks=True):
        certificate, key = server or self.server
        lines = f"cafile {self.ca}\ncertfile {certificate}\nkeyfile {key}\n"
        return (
            f"{lines}require_certificate true\nuse_identity_as_username true\ncrlfile {self.crl}\n"
            if asks
            else f"{lines}allow_anonymous true\n"
        )


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def broker(papers, tmp_path_factory):
    """Everyone may write at his own name only: `gw-1` at in/gw-1/… and out/gw-1/…."""
    folder = tmp_path_factory.mktemp("broker")
    rules = folder / "acl"
    rules.write_text("pattern readwrite in/%u/#\npattern readwrite out/%u/#\n")
    rules.chmod(0o600)
    with Mosquitto(folder / "b", tls=papers.listener() + f"acl_file {rules}\n") as broker:
        yield broker


class Silent:
    """gateway.mqtt.Owner, and nothing else."""

    def welcomed(self, link, welcome): ...
    def received(self, messages, size): ...
    def answered(self, packets): ...
    def spoilt(self, packet): ...


def attempt(url, **options):
    """Why a connection came to nothing, at the latest half a second after the hello; "" if it stands."""

    async def main():
        broker = BrokerOptions(url=url, connect_timeout=Duration(5), **options)
        try:
            link = await Broker(broker).connect(Silent(), client_id="x", clean_start=True)
        except LinkLost as lost:
            return str(lost)
        await link.close()
        return ""

    return asyncio.run(main())


def identity(pair):
    return {"cert_file": str(pair[0]), "key_file": str(pair[1])}


def test_the_name_in_the_certificate_is_the_login_of_driver_and_sink(broker, papers):
    async def main():
        mine = {"url": f"mqtts://localhost:{broker.tls_port}", "ca_file": papers.ca, **identity(papers.good)}
        outlet = FakeOutlet()
        out = sink.build(SinkOptions(topic="in/gw-1/{stream}", **mine), outlet)
        async with House(driver, DriverOptions(subscribe=["in/gw-1/#"], stream="s", **mine)) as house:
            await until(lambda: house.inlet.states)
            sending = asyncio.create_task(out.run())
            await sent(out, delivery(0, [b"1"]))
            await until(lambda: house.inlet.values == [b"1"])
            raw = delivery(1, [b"2"], stream="s", content_type="")
            other = sink.build(SinkOptions(topic="in/gw-9/{stream}", **mine, client_id="other"), FakeOutlet())
            trying = asyncio.create_task(other.run())
            assert "not authorized" in (await sent(other, raw)).rejected[0].reason
            for task in (sending, trying):
                task.cancel()
            await asyncio.gather(sending, trying, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("paper", "told"),
    [
        (None, "the broker asks for a certificate of ours; write cert_file and key_file"),
        ("expired", "the broker says that our certificate has expired"),
        ("coming", "check that it is valid already"),
        ("revoked", "the broker says that our certificate was revoked"),
        ("foreign", "the broker does not know who signed our certificate"),
    ],
)
def test_a_certificate_that_the_broker_refuses_is_told_with_its_reason_and_a_way_out(broker, papers, paper, told):
    mine = identity(getattr(papers, paper)) if paper else {}
    for url in (f"mqtts://localhost:{broker.tls_port}", f"mqtts://127.0.0.1:{broker.tls_port}"):
        assert told in attempt(url, ca_file=papers.ca, **mine)


@pytest.mark.parametrize(
    ("server", "ca", "told"),
    [
        ("server", "other_ca", "ca_file must hold the certificate of the CA that signed it"),
        ("old_server", "ca", "it has expired; renew it at the broker, or set our clock"),
        ("coming_server", "ca", "it is not valid yet; set our clock if that is wrong"),
        ("elsewhere", "ca", "write the url with a name that its certificate holds"),
    ],
)
def test_a_broker_whose_certificate_is_wrong_is_not_spoken_to(tmp_path, papers, server, ca, told):
    with Mosquitto(tmp_path, tls=papers.listener(getattr(papers, server), asks=False)) as broker:
        found = attempt(f"mqtts://localhost:{broker.tls_port}", ca_file=getattr(papers, ca))
    assert "its certificate is not trusted: " in found
    assert told in found


def test_files_that_cannot_be_used_are_named_each_with_what_to_try(papers, tmp_path):
    def told(**options):
        return attempt("mqtts://localhost:1", **{"ca_file": papers.ca, **identity(papers.good), **options})

    certificate, key = map(str, papers.good)
    none = str(tmp_path / "none.pem")
    assert told(ca_file=none) == f"ca_file {none}: No such file or directory; correct the path, or put the file there"
    assert told(key_file=none).startswith(f"key_file {none}: No such file")
    assert told(cert_file=str(tmp_path)).startswith(f"cert_file {tmp_path}: Is a directory")
    assert f"ca_file {key} holds no certificate in PEM form" in told(ca_file=key)
    assert f"key_file {certificate} holds no private key" in told(key_file=certificate)
    foreign = str(papers.revoked[1])
    assert told(key_file=foreign).startswith(f"key_file {foreign} does not belong to cert_file {certificate}")
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    assert "damaged" in told(cert_file=str(damaged))
    assert "damaged" in told(ca_file=str(damaged))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read the file")
def test_a_key_that_we_may_not_read_is_told_with_the_command_that_helps(papers):
    os.seteuid(65534)
    try:
        told = attempt("mqtts://localhost:1", ca_file=papers.ca)
    finally:
        os.seteuid(0)
    assert told == f"ca_file {papers.ca}: nobody may not read it; try: chown nobody {papers.ca}"


def test_an_encrypted_key_is_opened_by_its_password_and_never_by_asking_at_the_terminal(broker, papers, tmp_path):
    def told(password):
        more = {}
        if password is not None:
            (tmp_path / "password").write_text(password)
            more["key_password_file"] = Secret(str(tmp_path / "password"))
        mine = identity(papers.encrypted)
        return attempt(f"mqtts://localhost:{broker.tls_port}", ca_file=papers.ca, **mine, **more)

    assert told("open sesame\n") == ""
    assert told(None).endswith("is encrypted; write key_password_file")
    assert "the password in key_password_file does not open key_file" in told("open barley\n")
    assert "see key_password_file" in told("x" * 2000)
    (tmp_path / "password").unlink()
    gone = Secret(str(tmp_path / "password"))
    mine = {"ca_file": papers.ca, **identity(papers.encrypted), "key_password_file": gone}
    assert "cannot be used: [Errno 2] No such file" in attempt("mqtts://localhost:1", **mine)


def test_a_certificate_renewed_on_disk_is_used_at_the_next_connect(broker, papers, tmp_path):
    async def main():
        mine = [tmp_path / "mine.pem", tmp_path / "mine.key"]

        def put(pair):
            for source, target in zip(pair, mine, strict=True):
                shutil.copy(source, target)

        put(papers.good)
        where = {"url": f"mqtts://localhost:{broker.tls_port}", "ca_file": papers.ca, **identity(mine)}
        async with House(driver, DriverOptions(subscribe=["in/gw-1/#"], stream="s", **where)) as house:
            await until(lambda: house.inlet.states)
            put(papers.expired)  # the connection that stands goes on; the next one is made with what is there now
            house.driver._link.drop("cut")
            await until(lambda: any("our certificate has expired" in failure for failure in house.failures))
            shutil.copy(papers.next[0], mine[0])  # half of the renewal
            await until(lambda: any("renew both together" in failure for failure in house.failures))
            put(papers.next)
            await until(lambda: house.inlet.states[-1][0] == "up")

    asyncio.run(main())


def test_the_wrong_kind_of_port_is_told_apart(broker, papers):
    plain, secure = f"localhost:{broker.port}", f"localhost:{broker.tls_port}"
    assert "write mqtts:// if it expects TLS there" in attempt(f"mqtt://{secure}")
    assert "write mqtt:// if no TLS is spoken there" in attempt(f"mqtts://{plain}", ca_file=papers.ca)
    assert "check the name in the url" in attempt("mqtt://no-such-host.invalid")
    assert "Connection refused" in attempt(f"mqtt://localhost:{free_port()}")


@pytest.mark.parametrize(
    ("answer", "url", "told"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "mqtt", "a web server answers there, no MQTT broker"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "mqtts", "no TLS is spoken on this port"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "mqtt", "TLS is spoken on this port; write mqtts://"),
        (b"", "mqtt", "it ended the connection without letting us in"),
    ],
)
def test_those_who_are_no_broker_are_named(answer, url, told):
    async def main():
        async def serve(reader, writer):
            await reader.read(1)
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LinkLost, match=told):
            await Broker(BrokerOptions(url=f"{url}://127.0.0.1:{port}")).connect(
                Silent(), client_id="x", clean_start=True
            )
        server.close()

    asyncio.run(main())


def test_two_clients_of_one_name_are_told_to_have_names_of_their_own(tmp_path):
    async def main():
        with Mosquitto(tmp_path) as broker:
            options = BrokerOptions(url=f"mqtt://127.0.0.1:{broker.port}")
            first = await Broker(options).connect(Silent(), client_id="twin", clean_start=True)
            second = await Broker(options).connect(Silent(), client_id="twin", clean_start=True)
            assert "another client has our name 'twin'" in await first.lost
            await second.close()

    asyncio.run(main())
