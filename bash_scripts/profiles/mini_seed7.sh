# mini tuned with seed 7, by bash_scripts/mini/seeds.sh
inherit=mini_full
model_path=checkpoints/mini/seed7/model
training_checkpoints=  # its steps are not made
result_path=results/mini/seed7
