#!/usr/bin/env bash
# The fast tests in fresh environments, with the lowest and with the newest versions that setup.py allows, and a table.
# Usage: [PYTHON=python3.12] tools/matrix.sh [lowest] [newest]; without words both. Wheels of the lowest NumPy are there
# for Python 3.11 and 3.12.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- lowest newest
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python=${PYTHON:-python3}
failed=0

"$python" tools/lowest.py >"$place/lowest.txt" || exit 1
touch "$place/newest.txt" # nothing holds the newest ones down
for name in "$@"; do
    "$python" -m venv "$place/$name" || exit 1
    own="$place/$name/bin"
    result="could not be installed" versions=""
    if "$own/pip" install -q -c "$place/$name.txt" -e '.[test]'; then
        "$own/pytest" -m "not slow" 2>&1 | tee "$place/log"
        [ "${PIPESTATUS[0]}" = 0 ] || failed=1
        result=$(tail -n 1 "$place/log")
        versions=$("$own/pip" list --format=freeze | grep -E '^(jax|flax|optax|orbax-checkpoint|numpy)==' | paste -sd ' ')
    else
        failed=1
    fi
    echo "| $name | $("$own/python" -V) | $versions | $result |" >>"$place/table"
done
echo "| set | Python | versions | tests |"
echo "| --- | --- | --- | --- |"
cat "$place/table"
exit $failed
