# What a shell that is kept runs, as `INTERPRETER -c`: $1 is the folder, $2 its own number. A command is a
# script that is read in, so that a signal's "return" ends it, and the loop is a function, so that one that
# comes too late does not end the shell.
mf_d=$1 mf_i=$2 mf_x=0
shift 2
exec 5<>"$mf_d/$mf_i.i" 6<>"$mf_d/$mf_i.r"
mf_status() { return "$mf_x"; }
# By way of "command", an error in a command does not end the shell. In some versions of busybox an error in
# a subshell would then make that a second shell: there, only the language's errors are survived.
case $(command eval '(: </no/such/file)'; echo x) in
x) mf_way=command ;;
*) mf_way= ;;
esac
printf 'mf_status\n$mf_way eval "$mf_c"\n' >"$mf_d/$mf_i.x"
mf_check() {
  [ "$mf_way" ] || {
    printf '%s\n' "$mf_c" >"$mf_d/$mf_n.u"
    "$0" -n "$mf_d/$mf_n.u" 2>"$mf_d/$mf_n.e"
  }
}
mf_loop() {
  while IFS= read -r mf_n <&5; do
    . "$mf_d/$mf_n.s"
    if mf_check; then
      $mf_way . "$mf_d/$mf_i.x" </dev/null >"$mf_d/$mf_n.o" 2>"$mf_d/$mf_n.e" 5>&- 6>&-
      mf_x=$?
    else
      mf_x=2
    fi
    echo "$mf_x" >&6
  done
}
trap 'return 143' TERM
while :; do mf_loop; done
