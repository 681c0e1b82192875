"""A certificate authority in a folder, made with openssl: certificates that are good, expired, not yet valid, revoked."""

import subprocess
from pathlib import Path

CONFIG = """\
[ca]
default_ca = here
[here]
dir = {folder}
database = $dir/index.txt
serial = $dir/serial
crlnumber = $dir/crlnumber
new_certs_dir = $dir
certificate = $dir/ca.pem
private_key = $dir/ca.key
default_md = sha256
default_days = 30
default_crl_days = 30
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
"""


class Authority:
    """`ca` is its own certificate; `issue` makes others, `revoke` and `crl` take them back."""

    def __init__(self, folder: Path, name: str = "test ca") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "openssl.cnf").write_text(CONFIG.format(folder=folder))
        (folder / "index.txt").write_text("")
        for numbers in ("serial", "crlnumber"):
            (folder / numbers).write_text("01\n")
        self.ca = folder / "ca.pem"
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
        self._run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", f"/CN={name}")

    def issue(
        self,
        name: str,
        *,
        file: str = "",
        hosts: str = "DNS:localhost,IP:127.0.0.1",
        valid: tuple[str, str] | None = None,
        password: str = "",
    ) -> tuple[Path, Path]:
        """(certificate, key) for a common name; `valid`: (from, until) as 20260101000000Z."""
        stem = file or name
        certificate, key = self.folder / f"{stem}.pem", self.folder / f"{stem}.key"
        encrypted = ("-passout", f"pass:{password}") if password else ("-noenc",)
        kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-addext", f"subjectAltName={hosts}")
        self._run("req", *kind, *encrypted, "-keyout", key.name, "-out", f"{stem}.csr", "-subj", f"/CN={name}")
        dates = ("-startdate", valid[0], "-enddate", valid[1]) if valid else ()
        self._run("ca", "-batch", "-notext", "-in", f"{stem}.csr", "-out", certificate.name, *dates)
        return certificate, key

    def revoke(self, certificate: Path) -> None:
        self._run("ca", "-revoke", str(certificate))

    def crl(self) -> Path:
        """The list of what was revoked so far."""
        self._run("ca", "-gencrl", "-out", "crl.pem")
        return self.folder / "crl.pem"

    def _run(self, *words: str) -> None:
        config = ("-config", "openssl.cnf") if words[0] in ("ca", "req") else ()
        subprocess.run(["openssl", words[0], *config, *words[1:]], check=True, capture_output=True, cwd=self.folder)
