// Two maps on one picture: a line that divides them, or one after the other. Without a script this part stays hidden.
(() => {
  const box = document.getElementById("blink");
  if (box) {
    const slider = box.querySelector("input"), button = box.querySelector("button"), shown = box.querySelector("output");
    const {before, after} = box.dataset;
    let timer = 0;
    const place = at => box.style.setProperty("--at", at + "%");
    const divide = () => {
      clearInterval(timer);
      timer = 0;
      box.classList.remove("blinking");
      button.setAttribute("aria-pressed", "false");
      place(slider.value);
      shown.textContent = `left of the line: ${before}; right of it: ${after}`;
    };
    const show = second => {
      place(second ? 0 : 100);
      shown.textContent = `shown: ${second ? after : before}`;
    };
    const blink = () => {
      let second = false;
      box.classList.add("blinking");
      button.setAttribute("aria-pressed", "true");
      show(second);
      timer = setInterval(() => show(second = !second), 900);
    };
    slider.addEventListener("input", divide);
    button.addEventListener("click", () => timer ? divide() : blink());
    divide();
    box.hidden = false;
  }
})();
