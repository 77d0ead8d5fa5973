# Sourced by ./start and ./check (POSIX sh): find a Python, make .venv, install exactly what is pinned.
# The caller stands in the project's top folder.

die() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Print the first Python that is new enough and can make virtual environments.
find_python() {
    too_old=
    no_venv=
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        # Some version managers put a launcher for every version on PATH; it fails when that one is not active.
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            too_old="$too_old $candidate ($version)"
            continue
        fi
        if ! "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
            no_venv="$no_venv $candidate"
            continue
        fi
        printf '%s\n' "$candidate"
        return 0
    done
    if [ -n "$no_venv" ]; then
        die "hubbub: found$no_venv, but without the modules venv and ensurepip." \
            "On Debian or Ubuntu: apt install python3-venv (or python3.12-venv, to match the version)." \
            "Or name another Python: PYTHON=/path/to/python3 $0"
    fi
    die "hubbub needs Python 3.11 or newer.${too_old:+ Found only:$too_old.}" \
        "Install it with your system's package manager, or name one: PYTHON=/path/to/python3 $0"
}

# ensure_venv FILE: make .venv hold what FILE pins, and hubbub itself, editable.
# A stamp written last says what was installed; an interrupted install leaves none and is done again.
ensure_venv() {
    requirements=$1
    top=$(pwd -P)
    stamp=".venv/.installed-${requirements%.txt}"
    # A moved folder breaks the scripts in .venv/bin, so the place is part of the stamp.
    want="$top $(cat "$requirements" pyproject.toml | cksum)"
    [ -x .venv/bin/hubbub ] && [ -r "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && return 0

    if [ -e .venv ]; then
        place=$(cat .venv/.installed-* 2>/dev/null | sed -n '1s/ [0-9]* [0-9]*$//p')
        if ! .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
            || { [ -n "$place" ] && [ "$place" != "$top" ]; }; then
            rm -rf .venv
        fi
    fi
    if [ ! -e .venv ]; then
        python=$(find_python) || exit 1
        echo "hubbub: making .venv with $("$python" --version)" >&2
        "$python" -m venv .venv || die "hubbub: $python -m venv failed; its message is above."
    fi
    echo "hubbub: installing what $requirements pins (once)" >&2
    rm -f "$stamp"
    # Wheels only: building a package would fetch build tools that nobody pinned.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
        -r "$requirements" \
        || die "hubbub: the install failed; pip's message is above. Run the same command again to go on."
    # Everything it needs is there now, its build tool included, so nothing is fetched here. The build tool warns
    # of every editable install that folders here are imported before installed ones: that is what we want.
    PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
        --no-build-isolation --editable . \
        || die "hubbub: could not install hubbub itself into .venv; pip's message is above."
    printf '%s\n' "$want" >"$stamp"
}
