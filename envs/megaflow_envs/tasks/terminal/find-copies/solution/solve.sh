#!/bin/sh
cd /app/files || exit 1
LC_ALL=C
export LC_ALL
find . -type f -size +0c | sed 's|^\./||' | sort | while IFS= read -r path; do
  printf '%s\t%s\n' "$(md5sum <"$path")" "$path"
done | awk -F '\t' '
  { if (count[$1]++) line[$1] = line[$1] "\t" $2; else line[$1] = $2 }
  END { for (sum in line) if (count[sum] > 1) print line[sum] }' | sort >/app/copies.txt
