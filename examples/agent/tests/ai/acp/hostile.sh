# Speaks the Agent Client Protocol as far as the file `mode` in its directory lets it,
# and misbehaves from there on.

mode=$(cat mode)
loaded=begun-anew

answer() {
  printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$1" "$2"
}

say() {
  printf '{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"s1","update":{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"%s"}}}}\n' "$1"
}

ask() {
  printf '{"jsonrpc":"2.0","id":70,"method":"session/request_permission","params":{"sessionId":"s1","toolCall":{"toolCallId":"t","title":"count plums"},"options":[{"optionId":"yes","name":"Yes","kind":"%s"}]}}\n' "$1"
}

hang() {
  while :; do sleep 1; done
}

hello='{"protocolVersion":1,"agentCapabilities":{"loadSession":true}}'
session='{"sessionId":"s1"}'

if [ "$mode" = deaf ]; then
  answer 1 "$hello"
  answer 2 "$session"
  say begun
  hang
fi

prompted() {
  case $mode in
    well) say "$loaded"; answer "$id" '{"stopReason":"end_turn"}' ;;
    hang | cancel) say begun ;;
    ask) ask allow_once ;;
    ask-and-end) ask allow_once; sleep 3; exit 3 ;;
    refused) while :; do ask allow_always; read -r line; done ;;
    deaf-flood) while :; do printf '{"jsonrpc":"2.0","id":7,"method":"plums"}\n'; done ;;
    updates) while :; do say x; done ;;
    line)
      piece=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
      piece=$piece$piece$piece$piece$piece$piece$piece$piece
      piece=$piece$piece$piece$piece$piece$piece$piece$piece
      while :; do printf %s "$piece"; done ;;
    half) printf '{"jsonrpc":"2.0","id":%s,"res' "$id"; exit 3 ;;
    old-id) answer 1 "$hello"; hang ;;
  esac
}

while read -r line; do
  id=${line#*\"id\":}
  id=${id%%,*}
  case $line in
    *'"method":"initialize"'*)
      case $mode in
        hang-at-start) hang ;;
        garbage-at-start) printf 'plums \377\376\n'; hang ;;
        wrong-id) answer 99 "$hello"; hang ;;
        text-id) answer '"1"' "$hello"; hang ;;
        half-at-start) printf '{"jsonrpc":"2.0","id":1,"res'; exit 0 ;;
      esac
      answer "$id" "$hello" ;;
    *'"method":"session/new"'*)
      [ "$mode" = hang-at-new ] && hang
      answer "$id" "$session" ;;
    *'"method":"session/load"'*)
      [ "$mode" = hang-at-load ] && hang
      loaded=loaded
      answer "$id" '{}' ;;
    *'"method":"session/prompt"'*)
      prompt=$id
      prompted ;;
    *'"method":"session/cancel"'*)
      : > cancelled
      [ "$mode" = cancel ] && answer "$prompt" '{"stopReason":"cancelled"}' ;;
    *'"id":70,'*)
      printf '%s\n' "$line" > answered ;;
  esac
done
