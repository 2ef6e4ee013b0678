#!/bin/sh
# Two tests: the file is there, and says what it should. The report counts them; without it no verdict counts.
set -u
for tool in cat cmp mkdir; do
  command -v "$tool" >/dev/null || { echo "missing: $tool"; exit 1; }
done
answer=/app/report.csv expected=/tests/expected.txt passed=0
[ -s "$expected" ] || { echo "missing: $expected"; exit 1; }

if [ -f "$answer" ] && [ ! -L "$answer" ]; then
  passed=1
  if cmp "$answer" "$expected"; then passed=2; else
    echo "--- $answer"
    cat "$answer"
  fi
else
  echo "there is no file $answer"
fi
mkdir -p /logs/verifier
printf '{"results": {"tool": {"name": "test.sh"}, "summary": {"tests": 2, "passed": %s, "failed": %s}}}\n' \
  "$passed" "$((2 - passed))" >/logs/verifier/ctrf.json
if [ "$passed" = 2 ]; then echo 1; else echo 0; fi >/logs/verifier/reward.txt
