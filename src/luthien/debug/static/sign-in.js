// What stands behind a # is not sent to the server, which so could not lead there: the form takes it along.
const next = document.querySelector('form[action="/debug/sign-in"] input[name="next"]');
if (next && !next.value.includes("#")) next.value += location.hash;
