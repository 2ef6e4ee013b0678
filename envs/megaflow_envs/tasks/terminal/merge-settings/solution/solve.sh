#!/bin/sh
cd /app || exit 1
LC_ALL=C
export LC_ALL
for file in settings.d/*; do cat "$file"; done | awk '
  /^[ \t]*(#|$)/ { next }
  { at = index($0, "="); name = substr($0, 1, at - 1); value = substr($0, at + 1)
    gsub(/^[ \t]+|[ \t]+$/, "", name); gsub(/^[ \t]+|[ \t]+$/, "", value)
    if (value == "") delete set[name]; else set[name] = value }
  END { for (name in set) print name "=" set[name] }' | sort >settings.conf
