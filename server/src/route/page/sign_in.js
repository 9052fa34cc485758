// Sends the token once; the server answers with a cookie that no script can read.
document.getElementById("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = document.getElementById("said");
  said.textContent = "";
  try {
    const token = document.getElementById("token").value.trim();
    const response = await fetch("/api/session", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ token }),
    });
    if (response.ok) {
      location.assign("/");
      return;
    }
    said.textContent = (await response.json()).detail;
  } catch (error) {
    said.textContent = `The server does not answer (${error.message}).`;
  }
});
