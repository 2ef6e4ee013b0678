#!/bin/sh
cd /app || exit 1
tr 'A-Z' 'a-z' <text.txt | tr -cs 'a-z' '\n' | sed '/^$/d' | sort | uniq -c |
  sort -k1,1nr -k2,2 | head -n 3 | awk '{ print $2, $1 }' >top.txt
