# Two commands do everything on a fresh Debian 12 machine: `make demo` and `make test`.
# LANG_XACBE=en for English; KEEP=1 leaves the demonstration's network running.

SHELL := /bin/bash
PYTHON ?= $(shell test -x /usr/bin/python3.11 && echo /usr/bin/python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
LANG_XACBE ?= es
DEBIAN := python3-venv python3-dev gcc pkg-config libtss2-dev softhsm2 p11-kit p11-kit-modules opensc swtpm swtpm-tools tpm2-tools \
          mosquitto mosquitto-clients openssl curl procps
# The browser that judges verify.html, judges of containers that are not ours, of units, and of what a process asks the kernel for.
DEBIAN_TEST := chromium-headless-shell systemd xmlsec1 unzip strace openssh-client openssh-sftp-server libwrap0
# An S3-compatible service that is not ours: it takes a minute to start, so its tests run at night.
DEBIAN_NIGHTLY := python3-swift
DEBIAN_BENCH := nginx-light wrk
# Power cuts: a guest under emulation (tests/crash/README.md).
DEBIAN_CRASH := qemu-system-x86 e2fsprogs

# Installs what is missing and nothing else; dpkg-query is asked first, so a ready machine is left alone.
define install
missing="$$(for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done)"; \
if [ -n "$$missing" ]; then echo "apt-get install" $$missing; \
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi
endef

# The server that archives are carried to in tests: unpacked, not installed, because its package would open port 22 of this machine.
define unpack_sshd
if [ ! -x /usr/sbin/sshd ] && [ ! -x build/openssh/usr/sbin/sshd ]; then mkdir -p build/openssh && cd build/openssh && apt-get update -qq && \
  apt-get download -qq openssh-server && dpkg-deb -x openssh-server_*.deb . && rm openssh-server_*.deb; fi
endef

.PHONY: verify.html demo test crash-test crash-tools simulate setup lint bench nightly nightly-trixie fuzz clean debian report image image-run image-check image-test

demo: setup
	@$(BIN)/ceiqroo demo --language $(LANG_XACBE) $(if $(KEEP),--keep)

test: setup build/scan/.ready
	@$(call install,$(DEBIAN_TEST))
	@$(unpack_sshd)
	@$(BIN)/python -m pytest $(T)

# A TLS scanner that wants an older `cryptography` than ours: an environment of its own.
build/scan/.ready: tests/scan/requirements.lock | debian
	@test -x build/scan/bin/python || $(PYTHON) -m venv build/scan
	@build/scan/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# Power cuts of a guest that runs the real recorder, and thousands of crash states of its disk. As root: disks are mounted.
crash-test: setup crash-tools
	@$(BIN)/python -m pytest -m crash tests/crash

crash-tools: | debian
	@$(call install,$(DEBIAN_CRASH))

# Whole networks on virtual time (tests/simulation/README.md): SEEDS runs from FROM on; each failure prints how to replay it.
SEEDS ?= 1000
FROM ?= 1
simulate: setup
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --from $(FROM) --jobs $$(nproc) $(ARGS)

setup: $(VENV)/.ready

$(VENV)/.ready: tests/requirements.lock pyproject.toml | debian
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r tests/requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

debian:
	@$(call install,$(DEBIAN))

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: setup
	@$(call install,$(DEBIAN_BENCH))
	@$(BIN)/python -m tests.bench $(ARGS)

# Rule -> tests, case -> tests, promise -> figure, as one page from the last results: build/report.html.
report: setup
	@$(BIN)/python -m tests.report $(ARGS)

# The verifier for a browser without network, as one file.
verify.html: setup
	@$(BIN)/ceiqroo verify --html $@

# Long runs: deep fuzzing, many seeds, many kills, a log of a million records, a network of five thousand servers; then the report.
nightly: setup build/scan/.ready
	@$(call install,$(DEBIAN_TEST) $(DEBIAN_CRASH) $(DEBIAN_NIGHTLY))
	@$(unpack_sshd)
	@XACBE_DEPTH=deep $(BIN)/python -m pytest -m 'crash or not crash' $(T)
	@$(MAKE) --no-print-directory simulate SEEDS=100000 FROM=$$(( $$(date +%s) / 86400 * 100000 ))
	@$(MAKE) --no-print-directory fuzz
	@$(call install,$(DEBIAN_BENCH))
	@$(BIN)/python -m tests.bench log growth --records 1000000 --growth-records 1000 100000 1000000
	@$(BIN)/python -m tests.report

# Fuzzing that follows the code's branches (tests/fuzz): two minutes for each parser, its corpus in build/fuzz. ARGS="--seconds 10 settings"
fuzz: setup
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r tests/fuzz/requirements.lock
	@$(BIN)/python -m tests.fuzz $(or $(ARGS),--seconds 120)

# The same tests on what the image is made of: Debian 13, Python 3.13, OpenSSL 3.5. As root; the root is made once, in build/trixie.
DEBIAN_TRIXIE := mmdebstrap bubblewrap
nightly-trixie:
	@$(call install,$(DEBIAN_TRIXIE))
	@tests/trixie.sh $(T)

# The operating image (image/README.md): Debian 13 tools are fetched once, QEMU runs without KVM.
image: setup
	@$(BIN)/python -m image build $(ARGS)

image-run: setup
	@$(BIN)/python -m image run $(ARGS)

image-check: setup
	@$(BIN)/python -m image check $(ARGS)

image-test: setup
	@$(BIN)/python -m image test $(ARGS)

clean:
	rm -rf build $(VENV) *.egg-info
